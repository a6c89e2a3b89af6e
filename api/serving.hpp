// A whole server in this process: model, cluster and HTTP door, in the order in which they must start and stop.
// Used by `serve`, and by `run` and `chat` when no server's URL is given. Owner: the main thread.
#pragma once

#include <memory>
#include <string>

#include "actors/cluster.hpp"
#include "api/application.hpp"
#include "api/config.hpp"
#include "api/front_door.hpp"
#include "api/http_server.hpp"

namespace troupe::api {

struct serving_failure {
  error cause;
  int exit_code = exit_configuration;
};
template <class T>
using serving_result = tl::expected<T, serving_failure>;

// A model file, opened and checked against what was asked of it.
struct opened_model {
  std::shared_ptr<const model::loaded_model> loaded;
  std::filesystem::path path;
  std::vector<std::string> names;
  std::uint32_t max_model_len = 0;
  std::string tool_call_parser = "auto";
};

class serving {
 public:
  static serving_result<std::unique_ptr<serving>> start(const serve_config& config);
  ~serving();

  std::string url() const;
  const served_model& model() const { return *model_; }
  actors::generation_service& service() const { return cluster_->service(); }
  std::uint16_t cluster_port() const { return cluster_->cluster_port(); }

  // A node cannot start, with the code to leave with.
  std::optional<serving_failure> failure() const;
  void drain();
  bool drained() const;
  std::string under_way() const;  // what a drain waits for, for the log

 private:
  serving() = default;
  serving_result<void> start_cluster(const serve_config& config, const opened_model& opened);
  serving_result<void> take_ports(const serve_config& config, const cors& allowed_origins);
  void open_door(const serve_config& config, api_keys keys, api_keys admin_keys,
                 cors allowed_origins);

  std::string host_;
  std::shared_ptr<const served_model> model_;
  std::shared_ptr<frontend_metrics> metrics_;
  std::shared_ptr<front_door> door_;
  std::unique_ptr<actors::serve_process> cluster_;
  std::shared_ptr<application> application_;
  std::unique_ptr<http_server> server_;
};

serving_result<opened_model> open_model_file(const model_choice& choice,
                                             std::uint32_t max_model_len);
// With its tokenizer and template. A template that cannot be used is a warning: only /v1/completions works then.
serving_result<std::shared_ptr<const served_model>> make_served_model(const opened_model& opened);
int exit_code_of(ec code);
// The name by which a model is served unless another is given: of the file, or of the directory.
std::string base_name(const std::filesystem::path& path);

}  // namespace troupe::api
