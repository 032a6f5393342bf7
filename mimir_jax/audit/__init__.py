"""Is the number real? What can be reached without the model, and what else a membership score may measure."""
