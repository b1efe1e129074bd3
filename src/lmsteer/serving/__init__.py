"""Serving: text is generated with strengths that each request chooses, by our own server or in vLLM."""
