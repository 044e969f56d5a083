"""The method's steps on networks and images in memory; stages, the API and the benches call these.

    bank      = make_bank(teacher, spec, SynthesisConfig(...))        hard samples
    start     = calibrate_student(teacher, spec, width, ...)          quantizers with their ranges
    reconstruct_student(start.network, teacher, bank.images, ...)     in place, where asked for
    finetune_student(start.network, teacher, spec, bank.images, ...)  trained in place

So what one caller measures is what the others make. Nothing here reads or writes a file but a
checkpoint that it is given. A module a step: a change of fine-tuning must not make a bank out of
date.
"""
