"""One module per framework: functions that live there."""
