"""The HTTP server: OpenAI's interface and a web page in front of the engine."""
