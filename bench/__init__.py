"""What Telepatch costs beside the bare model: measured side by side, as ratios."""
