"""How an evaluation is shown, for both tasks: tables, curves, pictures, pages."""
