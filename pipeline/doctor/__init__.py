"""`vigil doctor`: checks whether this machine can do the job, and says how to put it right."""
