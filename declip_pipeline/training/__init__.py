"""Stage two: one training of one decoder from stores."""
