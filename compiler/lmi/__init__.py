"""What an LMI container and the machine under it expect. Pure code: no torch, no network, no file is written.

images            releases and tags; what each image carries      instances, fit    machines; who can run what
options           every property, by release: a table             properties        serving.properties, typed
java_properties   its syntax, for both of its readers             quantize          LMI's words for quantisation
package           where files go, and the files that say so       triton            config.pbtxt
predicates        the front end's own questions                   check, files      all the others, by name
partition         the images' own compile command, as a script    sagemaker         bodies of the three requests
schema            requests and answers of an endpoint
"""
