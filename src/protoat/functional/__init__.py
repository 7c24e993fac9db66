"""Pure tensor maths: no parameters, no state, no side effects."""
