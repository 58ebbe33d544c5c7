package workload

import "testing"

func TestNameOf(t *testing.T) {
	type labels = map[string]string
	for _, tt := range []struct {
		pod     string
		sandbox labels
		want    string
	}{
		// By what the Pod says it is of.
		{"web-7d9c6b8f5-x2k9p", labels{labelTemplateHash: "7d9c6b8f5"}, "web"},
		{"my-app-2-66b6c48dd5-lqz7w", labels{labelTemplateHash: "66b6c48dd5"}, "my-app-2"},
		{"web-7d9c6b8f5-x2k9p", labels{labelTemplateHash: "other"}, "web-7d9c6b8f5-x2k9p"},
		{"a-name-so-long-that-kubernetes-cuts-it-off-before-the-hash7x2k9p", labels{labelTemplateHash: "7d9c6b8f5"}, "a-name-so-long-that-kubernetes-cuts-it-off-before-the-hash7x2k9p"},
		{"db-0", labels{labelStatefulPod: "db-0", labelRevisionHash: "db-5c9f7d8b6f"}, "db"},
		{"db-shard-1-12", labels{labelStatefulPod: "db-shard-1-12", labelRevisionHash: "x"}, "db-shard-1"},
		{"logs-x2k9p", labels{labelRevisionHash: "6f8d9b7c5"}, "logs"},
		{"migrate-x2k9p", labels{labelJob: "migrate"}, "migrate"},
		{"migrate-x2k9p", labels{labelJobOld: "migrate"}, "migrate"},
		{"migrate-0-x2k9p", labels{labelJob: "migrate"}, "migrate"}, // an indexed Job
		{"report-29871234-x2k9p", labels{labelJob: "report-29871234"}, "report"},
		{"migrate-20261121-x2k9p", labels{labelJob: "migrate-20261121"}, "migrate-20261121"}, // a date
		{"other-x2k9p", labels{labelJob: "migrate"}, "other-x2k9p"},
		// What says nothing has its own name.
		{"web-7d9c6b8f5-x2k9p", labels{"app": "web"}, "web-7d9c6b8f5-x2k9p"},
		{"web", labels{}, "web"},
		// A Pod whose sandbox is not known.
		{"web-7d9c6b8f5-x2k9p", nil, "web"},
		{"web-7d9c6b8f5", nil, "web-7d9c6b8f5"},
		{"web-x2k9p", nil, "web-x2k9p"},                     // a DaemonSet's, or a name
		{"db-0", nil, "db-0"},                               // a StatefulSet's, or a name
		{"kube-proxy-bcd45", nil, "kube-proxy-bcd45"},       //
		{"web-7d9c6b8f0-x2k9p", nil, "web-7d9c6b8f0-x2k9p"}, // no hash has a 0
		{"web-7d9c6b8f5-mysql", nil, "web-7d9c6b8f5-mysql"}, // nor random letters a y
		{"-7d9c6b8f5-x2k9p", nil, "-7d9c6b8f5-x2k9p"},
	} {
		if got := nameOf(tt.pod, tt.sandbox); got != tt.want {
			t.Errorf("%s %v is %q, want %q", tt.pod, tt.sandbox, got, tt.want)
		}
	}
}
