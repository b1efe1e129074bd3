"""How a steer acts in other engines: they are asked, and their answers are compared with the local model."""
