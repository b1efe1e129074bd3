"""Serving: a strength for every request, from one machine's own server or in vLLM."""
