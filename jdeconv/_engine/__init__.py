"""What runs convolutions and products: XLA or oneDNN, and in which type they are summed."""
