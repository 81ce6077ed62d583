"""From a request to an artifact in its place: the order of the steps, and the cache behind them.

request     what is asked for: model, Ask (decides bytes), Resources (do not), output
resolve     locate the model, read its metadata, choose its recipe
plan        everything that config.json and headers tell      support       what a target takes
                                                              alternatives  other quantizations of a plan
build       the order of the steps                            runner        a step: looked up, or run and kept
job         values that the stages of a build hand on         weights       rank files, scaled, converted and judged
parts       files of tokenizers and of cache entries
steps/      fetch digest calibrate scales convert gate reference judge compile verify
rank_files  the streaming pass that writes rank files         convert_only  those files and nothing else
package     manifest of an artifact                           install       verify, put in place
elsewhere   engines compiled on another machine               verify_source an artifact against its source, once more
"""
