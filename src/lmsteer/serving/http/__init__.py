"""The server: requests in OpenAI's language, and a page, in front of the engine."""
