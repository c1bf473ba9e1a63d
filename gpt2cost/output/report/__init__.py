"""The page of `gpt2cost report`: its parts, its charts as inline SVG, and its template."""
