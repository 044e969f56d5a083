"""Everything on disk but the bank: checkpoints, teachers, students, datasets, tables."""
