"""What a call across costs, as ratios measured side by side in one process."""
