"""What all facades share: operands and sizes read, layout and geometry handed to the operator."""
