"""Rules of LMI containers and their machines. Pure code: no torch, no network, no file is written.

images            releases, tags, contents of each image        instances, fit    instance types; which artifact fits
options           table of all properties, by release           properties        serving.properties, typed
java_properties   syntax of .properties, for both readers       quantize          LMI's names for quantization
package           layout of an artifact, serving.properties     triton            config.pbtxt
predicates        the front end's own checks                    check, files      all other checks, by name
partition         the images' compile command, as a script      sagemaker         bodies of the three requests
schema            requests and answers of an endpoint
"""
