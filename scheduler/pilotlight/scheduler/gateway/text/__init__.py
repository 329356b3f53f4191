"""Text in, text out: templates, tokenizers, stop strings."""
