"""Results of build steps, kept by what decides them: on this machine, and in a store that a team shares."""
