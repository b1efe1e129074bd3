"""The demo: two steers made in one step, and a report of what they do."""
