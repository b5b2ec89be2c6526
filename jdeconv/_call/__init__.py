"""What all public modules share: arguments read and checked into a `Call`, and the one way of it to the operator."""
