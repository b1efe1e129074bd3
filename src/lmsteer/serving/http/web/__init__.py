"""The web page: prompts with a slider for each steer, analysed texts, and the words that a steer moves."""
