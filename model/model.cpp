#include "model/model.hpp"

#include "model/architecture.hpp"
#include "model/digest.hpp"
#include "model/gguf.hpp"

namespace troupe::model {

result<std::shared_ptr<const loaded_model>> open_model(const std::filesystem::path& path) {
  TROUPE_TRY(auto source, read_gguf(path));
  TROUPE_TRY(auto name, source.meta->get<std::string>("general.architecture"));
  auto* arch = find_architecture(name);
  if (!arch)
    return fail(ec::unsupported,
                source.meta->source() + ": architecture " + printable(name) +
                    " is not one that this build runs: " + supported_architectures());
  auto loaded = std::make_shared<loaded_model>();
  TROUPE_TRY(loaded->config, read_config(*arch, source));
  TROUPE_TRY(loaded->weights, bind_weights(*arch, loaded->config, source));
  loaded->digest = digest(source);
  loaded->meta = source.meta;
  loaded->mapping = source.mapping;
  loaded->file_bytes = source.file_bytes;
  return loaded;
}

}  // namespace troupe::model
