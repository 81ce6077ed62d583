"""Target `inductor`: torch.export and AOTInductor. Compiles and runs on any CPU, and on CUDA where there is one."""
