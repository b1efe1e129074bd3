"""The bodies of requests and responses: OpenAI's, with a field ``steers`` in addition."""
