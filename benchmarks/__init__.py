"""Side-by-side measurements in the lab. Timings are machine-dependent: only ratios within one run mean something."""
