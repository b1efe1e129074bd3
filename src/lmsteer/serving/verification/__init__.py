"""The side of a client: a running server is asked, and what its steers do is measured."""
