"""Many runs together: grids of trainings, in this process or in workers."""
