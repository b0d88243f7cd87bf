"""What backends of state give: one small protocol for each kind of thing that is kept."""
