// What the HTTP door serves: paths, keys, and each endpoint's work. Sans-IO: requests come as values, answers go to an
// exchange.
//
// Thread-safe: `handle` is called by every thread of the server. Outlives the server; its service outlives it.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "actors/service.hpp"
#include "api/api_keys.hpp"
#include "api/background.hpp"
#include "api/completion_job.hpp"
#include "api/cors.hpp"
#include "api/frontend_metrics.hpp"
#include "api/http_types.hpp"
#include "api/request.hpp"
#include "api/served_model.hpp"

namespace troupe::api {

struct application_options {
  api_keys keys;
  api_keys admin_keys;    // if there are any, only they change the cluster
  cors allowed_origins;   // of pages in browsers, beside the server's own
  request_limits limits;  // vocab_size is filled from the model
  std::string version = "0.1.0";
  bool web_ui = true;
  std::vector<std::string> own_nodes;  // of this process: they cannot leave without it
  std::chrono::milliseconds ping{15'000};
  std::chrono::milliseconds generation_timeout{600'000};
  std::chrono::milliseconds metrics_timeout{2'000};
};

class application : public http_handler {
 public:
  application(application_options options, actors::generation_service& service,
              std::shared_ptr<const served_model> model, std::shared_ptr<frontend_metrics> metrics);
  ~application() override;

  void handle(http_request request, std::shared_ptr<exchange> to) override;
  http_response refuse(const api_error& e) override;

  // New generations get 503 and /health says so; those under way go on.
  void begin_drain() { draining_ = true; }
  std::size_t in_flight() const { return *in_flight_; }

 private:
  struct call;
  struct route;
  static const std::vector<route>& routes();

  void chat_completions(call& c);
  void completions(call& c);
  void tokenize(call& c);
  void detokenize(call& c);
  void list_models(call& c);
  void one_model(call& c);
  void health(call& c);
  void live(call& c);
  void metrics_text(call& c);
  void version(call& c);
  void cluster(call& c);
  void clear_cache(call& c);
  void pin_cache(call& c);
  void drain_node(call& c);
  void web_page(call& c);

  void start_job(call& c, answer_plan plan);
  api_result<answer_head> head_for(const common_request& common, bool chat) const;
  api_result<void> check_model(const std::string& name) const;
  api_result<void> check_admission() const;
  std::uint32_t max_model_len() const;  // of the model, or what the cluster holds of it

  const application_options options_;
  const request_limits limits_;
  actors::generation_service& service_;
  const std::shared_ptr<const served_model> model_;
  const std::shared_ptr<frontend_metrics> metrics_;
  const std::string fingerprint_;
  std::atomic<bool> draining_ = false;
  const std::shared_ptr<std::atomic<std::size_t>> in_flight_ =
      std::make_shared<std::atomic<std::size_t>>(0);
  background background_{16};
};

// The path of a request target: without query, and without scheme and host if it has them. Nothing is decoded.
std::string_view path_of(std::string_view target);
std::string cluster_json(const actors::cluster_status& status);
std::string_view web_page_html();

}  // namespace troupe::api
