"""Transfer: a steer carried to another model, in closed form."""
