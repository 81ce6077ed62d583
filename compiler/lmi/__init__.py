"""Rules of LMI containers and their machines. Pure code: no torch, no network, no file is written.

images            releases, tags, contents of each image        instances, fit    instance types; which artifact fits
options, backend_options   tables of properties, by release     properties        serving.properties, typed
backends          what each back end's properties mean for a build
from_properties, property_quant   a configuration as a request of a build
serving_options   properties of `--option`                      checkpoint        profiles of containers that load one
neo               interface of an optimization job
java_properties   syntax of .properties, for both readers       quantize          LMI's names for quantization
package           layout of an artifact, serving.properties     triton            config.pbtxt
predicates        the front end's own checks                    check, files      all other checks, by name
partition         the images' compile command, as a script      sagemaker         bodies of the three requests
contract          requests and answers of an endpoint, by release
"""
