"""Pictures: what they show as plain numbers (`plot_*`), and how matplotlib draws them (`draw_*`)."""
