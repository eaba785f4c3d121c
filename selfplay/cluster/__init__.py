"""Where the work of training is done: in this process (`local`), or by Ray actors (`ray_cluster`)."""
