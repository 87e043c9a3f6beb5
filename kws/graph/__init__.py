"""From a .tflite to a typed graph, through passes, to a memory plan (DESIGN D4).

    reader.py       the file, distrusted, to `nodes.Graph`
    operators.py    what each operator means: options, shapes, rows, cost
    passes.py       rewrites: views, tables of unary chains
    schedule.py     operators into loops over blocks of token rows
    memory_plan.py  every tensor's place: in the arena, or in what outlives a step

The exact integer preparation (multipliers, shifts, tables) is quantized_math.py's and
weight_layout.py's; the C text is kws/emit's.
"""
