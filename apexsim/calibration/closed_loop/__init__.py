"""The closed loop: calibrate a machine, serve requests on it with a real engine, replay the same ones, compare.

    served.py                what was measured of each request
    engine.py                what an engine must offer
    transformers_engine.py   Hugging Face transformers with continuous batching; the only file that imports it
    plan.py                  the model, the limits and the plan that both sides run
    host.py                  the engine's own time, from batches of other lengths than those that are compared
    replay.py                the same requests simulated, and the errors
    files.py                 the measured runs as a validation set
    run.py                   all of it in order
"""
