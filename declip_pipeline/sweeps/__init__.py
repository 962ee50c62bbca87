"""Many runs together: judged on each other's test sets."""
