"""Transfer: a steer of one model becomes a steer of another model, in closed form."""
