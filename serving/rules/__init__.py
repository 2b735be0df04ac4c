"""Rules that drop or reorder candidates and account for what they drop."""
