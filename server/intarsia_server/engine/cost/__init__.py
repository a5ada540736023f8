"""What a job will cost, before it runs: pure arithmetic, without torch. The worker measures the speeds it is told."""
