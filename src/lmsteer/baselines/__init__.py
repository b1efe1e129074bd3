"""What a steer is weighed against: rival methods that learn from the same labelled texts."""
