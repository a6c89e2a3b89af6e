#include "model/source.hpp"

#include "model/gguf.hpp"
#include "model/hugging_face.hpp"

namespace troupe::model {

result<model_source> read_source(const std::filesystem::path& path) {
  std::error_code ignored;  // what cannot be looked at is reported by the reader
  if (std::filesystem::is_directory(path, ignored)) return read_hugging_face(path);
  if (path.extension() == ".safetensors")
    return fail(ec::invalid_argument,
                path.string() + ": give the directory that holds it, with its config.json");
  return read_gguf(path);
}

}  // namespace troupe::model
