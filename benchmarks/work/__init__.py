"""What is measured: single convolutions, sweeps of random ones, whole networks."""
