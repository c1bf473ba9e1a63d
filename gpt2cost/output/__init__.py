"""Results as JSON, CSV, Markdown, text, traces and pictures."""
