"""All rows, in the order of the page."""

from __future__ import annotations

import rows_control
import rows_generation
import rows_gradients
import rows_inputs
import rows_inside
import rows_models
import rows_naming
import rows_reading
import rows_running
import rows_service
import rows_training

GROUPS = (
    rows_running.GROUP,
    rows_inputs.GROUP,
    rows_reading.GROUP,
    rows_inside.GROUP,
    rows_naming.GROUP,
    rows_control.GROUP,
    rows_generation.GROUP,
    rows_gradients.GROUP,
    rows_training.GROUP,
    rows_models.GROUP,
    rows_service.GROUP,
)
