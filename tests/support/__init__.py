"""What several tests share: builders, expectations, ways to run things."""
