"""What compilers make of the operator for GPUs and TPUs that are not there."""
