"""The HTTP server: the interfaces of OpenAI and Ollama, and a web page, in front of the engine."""
