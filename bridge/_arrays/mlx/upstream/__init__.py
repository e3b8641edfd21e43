"""Names and texts that MLX does not promise to keep, each with its fallback or the word "required".

No other module uses any.
"""
