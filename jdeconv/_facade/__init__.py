"""What all facades share: arrays and sizes read and checked, and the one way to the operator."""
